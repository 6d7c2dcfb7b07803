"""Every week: query a database for recipients, and send each of them one reminder."""

import pandas as pd
import sqlalchemy as sa
from prefect import flow, runtime
from prefect.blocks.system import Secret

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import send_dataframe


@flow
def weekly_reminder(
    database: Secret,  # type: ignore[type-arg]  # as Secret[str] it would be another type of block
    query: str,
    message: str,
    credentials: MyMSPCredentials | str = "default",
) -> None:
    """Send ``message`` to the rows of ``query``; ``database`` holds an SQLAlchemy URL.

    The campaign's name contains the week, so a second run in the same week sends no reminder twice.
    """
    engine = sa.create_engine(database.get())
    with engine.connect() as connection:
        recipients = pd.read_sql_query(sa.text(query), connection)
    engine.dispose()
    week = runtime.flow_run.get_scheduled_start_time().strftime("%G-W%V")
    send_dataframe(recipients, message, credentials, campaign=f"weekly-reminder {week}", wait_minutes=0)
