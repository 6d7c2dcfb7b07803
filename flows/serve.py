"""Serve the deployments of ``prefect.yaml`` from this process, without a work pool or a worker."""

import os
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Schedule

if __name__ == "__main__":
    os.chdir(Path(__file__).parent)  # entrypoints are relative to this folder
    serve(
        *(
            RunnerDeployment.from_entrypoint(
                recipe["entrypoint"],
                recipe["name"],
                schedules=[Schedule(**schedule) for schedule in recipe["schedules"]],
                parameters=recipe["parameters"],
            )
            for recipe in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]
        )
    )
