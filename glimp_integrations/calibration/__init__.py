"""A threshold for a wanted share of large steps.

``fit.py`` finds it, and ``calibrated_threshold.py`` (one folder up) keeps it in a file.
"""

from glimp_integrations.calibrated_threshold import (
    CalibratedThreshold,
    Calibration,
    CalibrationWarning,
    Conditions,
)

__all__ = ["CalibratedThreshold", "Calibration", "CalibrationWarning", "Conditions"]
