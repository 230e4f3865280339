"""The engine's numbers. `config.py` fills them from flags, environment and file."""

from dataclasses import dataclass
from typing import Final

from coatcheck.wire import STATE_BYTES_MAX
from coatcheck_sidecar.core.objects import FORMAT
from coatcheck_sidecar.core.retention import KEEP

ENFORCE: Final = "enforce"
WARN: Final = "warn"
OFF: Final = "off"
"""What may become of an acknowledgement that the grace might not suffice for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Defaults; each is a key of the configuration by the same name."""

    heartbeat_s: float = 10.0
    lease_s: float = 30.0
    """A lost node's runs go on after about a heartbeat and a lease."""
    ship_interval_s: float = 0.05
    """From one swap of a run's head to the next, unless somebody waits for it."""
    pause_max_s: float = 10.0
    """The longest that a process is paused between its clock check and its write."""
    state_bytes_max: int = STATE_BYTES_MAX
    store_format: int = FORMAT
    keep_checkpoints: int = KEEP
    """Checkpoints, of those sealed and of those not, that a run can be set back to."""
    breaker_crashes: int = 5
    claim_poll_s: float = 2.5
    """How often a queue with idle agents is listed."""
    agent_wait_s: float = 30.0
    """How long a run whose agent died waits for a new one here before others may have it."""
    agent_silence_s: float = 60.0
    """How long an agent over HTTP may ask for nothing before it counts as gone."""
    orphan_wait_s: float = 5.0
    """How long a new call waits for recorded ones of its step to be asked for again."""
    join_wait_s: float = 600.0
    """How long an equal call waits for the one in flight."""
    puts_max: int = 16
    """Objects on their way to the store at once."""
    grace_s: float = 30.0
    """The pod's `terminationGracePeriodSeconds`."""
    margin_s: float = 1.0
    """What a drain holds back of the grace."""
    flush_budget: str = ENFORCE
    """It waits (`enforce`), a metric and a log line tell of it (`warn`), or nobody looks."""
    budget_probe_s: float = 60.0
    """How long nothing big may go over the link before it is measured by a probe."""
    collect_s: float = 3_600.0
    """How often an owner deletes what its runs' heads name no more."""
    scan_heads: int = 5
    """Heads read each heartbeat in search of ready runs whose marker was lost."""
