"""How good scanner and repair are, on models whose truth is known; only this side knows it."""
