"""What `phlogiston demo` trains of deep residual mixtures."""

from __future__ import annotations

from typing import Any

from phlogiston.systems.drmm.config import PRESETS


def recipes() -> list[dict[str, Any]]:
    """What `DRMM.demo` trains."""
    return [
        {
            "title": "DRMM on a noisy Swiss roll",
            "text": "A curve with noise in the plane. Each layer multiplies the number of Gaussians by 16: the "
            "density sharpens from left to right. Below, five questions to one density.",
            "data": "swissroll",
            "trained": "drmm/swissroll",
            "ask": [["x0 = 2.5"], ["x0 ~ 0 +- 0.5"], ["x0 >= 0", "x0 <= 4", "2*x0 - x1 >= 0.3"]],
            "next": [("phlogiston sample RUN -n 5000 --out points.csv", "rows to work with")],
            "data_options": {},
            "options": {**PRESETS["swissroll"], "num_layers": 3},
        },
        {
            "title": "DRMM on handwritten digits",
            "text": "The 8x8 digits of scikit-learn with their labels as a categorical column: one model draws, "
            "scores, completes and names digits.",
            "data": "digits",
            "trained": "drmm/digits",
            "ask": [["label in {3, 8}", "pixel_0_3 >= 0.4"], ["pixel_3_3 = 0", "pixel_4_4 = 0"]],
            "next": [("phlogiston sample RUN -n 64 --out digits.png", "a picture of 64 new digits")],
            "data_options": {},
            "options": dict(PRESETS["digits"]),
        },
        {
            "title": "DRMM solves inverse kinematics",
            "text": "Root, joint angles and limb positions of a body in the plane. To reach is to ask for angles given "
            "ends; below, the same samples after Gauss-Newton steps on the true kinematics.",
            "data": "poses",
            "trained": "drmm/poses",
            "show": ["kinematics", "training"],
            "ask": [
                ["right_hand_x = 0.6", "right_hand_y = 0.7"],
                ["right_hand_x = 0.6", "right_hand_y = 0.7", "head_top_y <= 1.2"],
            ],
            "next": [("python examples/drmm_kinematics.py", "poses that reach exactly, in a picture")],
            "data_options": {"sizes": (20_000, 0, 500)},
            "options": dict(PRESETS["poses"]),
        },
        {
            "title": "DRMM plans flights",
            "text": "Flights of an agent that falls unless it jumps: 32 heights and 32 speeds. Way-points are "
            "known heights, gaps between obstacles are boxes.",
            "data": "jumper",
            "trained": "drmm/flights",
            "show": ["flights", "training"],
            "ask": [["y0 = 0.5", "y16 = 0.6", "y31 = 0.4"], ["y0 = 0.5", "y16 >= 0.7", "y24 <= 0.3"]],
            "next": [("python examples/drmm_trajectories.py", "way-points and obstacles, in a picture")],
            "data_options": {"sizes": (8_000, 0, 500)},
            "options": {"frame": "diag", "num_layers": 3, "num_components": 64, "steps": 800},
        },
    ]
