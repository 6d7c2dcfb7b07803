"""Every hour: add received messages to a database table, each once."""

from prefect import flow
from prefect.blocks.system import Secret

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import Table, collect_inbox, export_inbox_report


@flow
def inbox_to_warehouse(
    database: Secret,  # type: ignore[type-arg]  # as Secret[str] it would be another type of block
    table: str = "sms_inbox",
    credentials: MyMSPCredentials | str = "default",
    show_numbers: bool = False,
) -> None:
    """Fetch received messages, and add the new ones to ``table``."""
    collect_inbox(credentials)
    export_inbox_report(
        credentials, table=Table(name=table, database=database), new_only=True, show_numbers=show_numbers
    )
