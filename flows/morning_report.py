"""Every morning: write a page about the messages sent since yesterday."""

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from prefect import flow, runtime

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import export_delivery_report
from prefect_mymsp.flows.parameters import load_credentials


@flow
def morning_report(folder: Path, credentials: MyMSPCredentials | str = "default") -> None:
    """Write ``folder/<day>.html`` about the messages sent yesterday or today."""
    account = load_credentials(credentials)
    start = datetime.fromtimestamp(runtime.flow_run.get_scheduled_start_time().timestamp(), ZoneInfo(account.timezone))
    today = start.replace(hour=0, minute=0, second=0, microsecond=0)
    export_delivery_report(
        credentials=account,
        format="html",
        since=today - timedelta(days=1),
        path=folder / f"{today:%Y-%m-%d}.html",
    )
