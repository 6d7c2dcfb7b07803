"""Every week: ask a database who is to be reminded, and remind each of them once."""

import pandas as pd
import sqlalchemy as sa
from prefect import flow, runtime
from prefect.blocks.system import Secret

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import send_dataframe


@flow
def weekly_reminder(
    credentials: MyMSPCredentials,
    database: Secret,  # type: ignore[type-arg]  # as Secret[str] Prefect takes it for another type of block
    query: str,
    message: str,
) -> None:
    """Send ``message`` to the rows of ``query``; ``database`` holds an SQLAlchemy URL.

    The week is the campaign's name: a run that is repeated in the same week reminds nobody again.
    """
    engine = sa.create_engine(database.get())
    with engine.connect() as connection:
        people = pd.read_sql_query(sa.text(query), connection)
    engine.dispose()
    week = runtime.flow_run.get_scheduled_start_time().strftime("%G-W%V")
    send_dataframe(people, message, credentials, campaign=f"weekly-reminder {week}", wait_minutes=0)
