"""Is a synthesised trigger the attacker's? Three measures (Menisov 2022, "Identification")."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NeuronMatch:
    """Similarity of what two triggers do to the neurons of one layer."""

    layer: str
    cosine: float
    """Of the two mean activation shifts (stamped minus clean), in [-1, 1]."""
    top_overlap: float
    """Share of the neurons most raised by the known trigger (top 1 %, at least one) that are also
    among those most raised by the found one, in [0, 1]."""
    top_neurons: int
    """How many neurons the top 1 % is."""
    activation_clean: float
    """Mean activation of the known trigger's top neurons on clean images."""
    activation_known: float
    """The same under the known trigger."""
    activation_found: float
    """The same under the found trigger."""


@dataclass(frozen=True)
class Match:
    """A found trigger beside a known one."""

    target: int
    success_found: float
    """Attack success rate of the found trigger, in [0, 1]."""
    success_known: float
    """Attack success rate of the known trigger, in [0, 1]."""
    size_found: float
    size_known: float
    mask_overlap: float
    """Intersection over union of the masks (sum of minima over sum of maxima), in [0, 1]."""
    centre_distance: float
    """Between the masks' centres of mass, in pixels."""
    colour_difference: float
    """Mean absolute difference of the patterns where both masks are, in [0, 1]; NaN if nowhere."""
    structural_similarity: float
    """Mean SSIM of the two triggers' pictures, in [-1, 1]."""
    neurons: tuple[NeuronMatch, ...]
    """One per layer, the penultimate first."""
