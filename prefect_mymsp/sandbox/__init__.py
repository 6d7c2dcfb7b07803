"""A gateway to develop and test against: the vendor's eight endpoints on loopback, with state, faults and a clock."""

from prefect_mymsp.sandbox.accounts import Account, Settings
from prefect_mymsp.sandbox.clock import Clock
from prefect_mymsp.sandbox.dialect import Dialect
from prefect_mymsp.sandbox.faults import Fault, FaultPlan
from prefect_mymsp.sandbox.gateway import Gateway
from prefect_mymsp.sandbox.server import Sandbox, serve

__all__ = ["Account", "Clock", "Dialect", "Fault", "FaultPlan", "Gateway", "Sandbox", "Settings", "serve"]
