"""Energy of a run by codecarbon, offline: nothing is sent anywhere, and no file is written."""

from __future__ import annotations

import importlib.util
from typing import Any

from recbole_vae.errors import ConfigError

_COUNTERS = {"intel_rapl": "RAPL", "windows_emi": "Windows EMI", "intel_power_gadget": "Power Gadget"}
"""Counters of the processor by codecarbon's names; other names are models of its load."""

NOTHING = "nothing"
"""Stands where :meth:`Meter.how` says what was measured, if all is estimated."""


def check() -> None:
    """Raise a ConfigError if codecarbon is missing."""
    if importlib.util.find_spec("codecarbon") is None:
        raise ConfigError(
            "energy is measured by codecarbon, which is not installed; pip install 'recbole_vae[energy]', or leave out energy."
        )


class Meter:
    """Measures the energy of this machine from :meth:`start` to :meth:`stop`."""

    _tracker: Any = None

    def start(self) -> None:
        """Begin. It takes some seconds, in which codecarbon looks at the machine."""
        from codecarbon import OfflineEmissionsTracker

        self._tracker = OfflineEmissionsTracker(
            country_iso_code="USA",  # asked for, but only for emissions, which are not used
            tracking_mode="machine", output_methods=[], emissions_endpoint=None, log_level="critical", allow_multiple_runs=True,
        )  # fmt: skip
        self._tracker.start()

    def stop(self) -> float:
        """End, and return the energy in kWh."""
        self._tracker.stop()
        return float(self._tracker.final_emissions_data.energy_consumed)

    def how(self) -> str:
        """Say what was measured, and what was estimated."""
        from codecarbon import __version__

        modes = [mode for each in self._tracker._hardware if (mode := getattr(each, "_mode", None)) is not None]
        counters = [_COUNTERS[mode] for mode in modes if mode in _COUNTERS]
        on_gpu = self._tracker.final_emissions_data.gpu_energy > 0
        measured = [f"the processor by its counters ({counters[0]})"] if counters else []
        measured += ["the GPU by its counters"] if on_gpu else []
        estimated = [] if counters else ["the processor from its load and nominal power"]
        words = f"measured: {' and '.join(measured) or NOTHING}; estimated: {' and '.join([*estimated, 'memory from its size'])}"
        return f"Energy is that of the whole machine in training and evaluation, by codecarbon {__version__}; {words}."
