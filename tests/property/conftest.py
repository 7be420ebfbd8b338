"""Plants the fault that `just mutants` asks for."""

from __future__ import annotations

from tests.property.mutants import plant_from_environment

plant_from_environment()
