"""Every night: send the campaigns that lie in a folder, one a file, and move what is done out of the way."""

import time
from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.errors import MyMSPError
from prefect_mymsp.flows import SendWindow, send_campaign


@flow
def nightly_campaign(
    credentials: MyMSPCredentials,
    folder: Path,
    message: str,
    send_window: SendWindow = SendWindow(opens="08:00", closes="20:00"),  # noqa: B008  it never changes
    quiet_s: float = 60,
) -> None:
    """Send every CSV file that nobody has written to for ``quiet_s`` seconds; it is moved to ``folder/sent`` then.

    A file's name is its campaign's. So whatever happens to a run, the next one sends what is missing and nothing
    twice; a second file under a name that was there before sends the people who are new in it. What is sent at night
    waits at the gateway until the ``send_window`` opens.
    """
    logger, left = get_run_logger(), []
    for file in sorted(folder.glob("*.csv")):
        touched = file.stat()
        if time.time() - max(touched.st_mtime, touched.st_ctime) < quiet_s:
            logger.info("%s may still be written to; the next night takes it.", file.name)
            continue
        try:
            send_campaign(file, message, credentials, campaign=file.name, send_window=send_window, wait_minutes=0)
        except MyMSPError as error:
            logger.error("%s: %s", file.name, error)  # noqa: TRY400  the run of the campaign shows where
            left.append(file.name)
        else:
            (folder / "sent").mkdir(exist_ok=True)
            file.rename(folder / "sent" / f"{time.strftime('%Y-%m-%dT%H%M%S')} {file.name}")
    if left:
        raise RuntimeError(f"Not sent to the end, and still in the folder: {', '.join(left)}.")
