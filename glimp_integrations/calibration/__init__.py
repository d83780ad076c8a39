"""A threshold for a wanted share of large steps: found by ``fit``, kept as a ``record``."""

from glimp_integrations.calibrated_threshold import (
    CalibratedThreshold,
    Calibration,
    CalibrationWarning,
    Conditions,
)

__all__ = ["CalibratedThreshold", "Calibration", "CalibrationWarning", "Conditions"]
