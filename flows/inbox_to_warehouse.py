"""Every hour: what people wrote, as rows of a table; each message is one row, once."""

from prefect import flow
from prefect.blocks.system import Secret

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import collect_inbox, export_inbox_report
from prefect_mymsp.models import ReportFormat


@flow
def inbox_to_warehouse(
    credentials: MyMSPCredentials,
    database: Secret,  # type: ignore[type-arg]  # as Secret[str] Prefect takes it for another type of block
    table: str = "sms_inbox",
    show_numbers: bool = False,
) -> None:
    """Fetch the account's received messages, and add those that are new to ``table``."""
    collect_inbox(credentials)
    export_inbox_report(
        credentials,
        new_only=True,
        format=ReportFormat.SQL,
        database=database,
        table=table,
        show_numbers=show_numbers,
    )
