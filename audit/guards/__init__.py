"""Guards: what suppresses a skill without changing a weight. ``methods/`` holds one file a method.

A guard is fitted on the queries of a skill, saved as a small folder (statistics, settings, digest of its base), and
applied to a transformers model by hooks. Removing it gives the base back, so an audit of the weights says ``gated``.

Source: Li, Sun, Weng, *Effective Skill Unlearning through Intervention and Abstention*, NAACL 2025.
"""

from __future__ import annotations

from audit.guards.saving import AppliedGuard, load_guard, read_guard, save_guard

__all__ = ["AppliedGuard", "load_guard", "read_guard", "save_guard"]
