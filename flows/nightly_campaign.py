"""Every night: send the campaigns in a folder, one per file, and move each file when it is done."""

import time
from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.errors import MyMSPError
from prefect_mymsp.flows import SendWindow, send_campaign


@flow
def nightly_campaign(
    folder: Path,
    message: str,
    credentials: MyMSPCredentials | str = "default",
    send_window: SendWindow = SendWindow(opens="08:00", closes="20:00"),  # noqa: B008  never changed
    quiet_minutes: float = 1,
) -> None:
    """Send every CSV file that has not changed for ``quiet_minutes``, and move it to ``folder/sent``.

    The file's name is the campaign's name. When a run fails, the next one sends only what is missing. A later file of
    the same name is sent to its new recipients only. Messages wait at the gateway until the ``send_window`` opens.
    """
    logger, failed = get_run_logger(), []
    for file in sorted(folder.glob("*.csv")):
        changed = file.stat()
        if time.time() - max(changed.st_mtime, changed.st_ctime) < quiet_minutes * 60:
            logger.info("%s may still be changing. The next run sends it.", file.name)
            continue
        try:
            send_campaign(file, message, credentials, campaign=file.name, send_window=send_window, wait_minutes=0)
        except MyMSPError as error:
            logger.error("%s: %s", file.name, error)  # noqa: TRY400  the campaign's own run has the traceback
            failed.append(file.name)
        else:
            (folder / "sent").mkdir(exist_ok=True)
            file.rename(folder / "sent" / f"{time.strftime('%Y-%m-%dT%H%M%S')} {file.name}")
    if failed:
        raise RuntimeError(f"Not completely sent, and still in the folder: {', '.join(failed)}.")
