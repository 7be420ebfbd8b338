"""Tests of the stores, and of the contract that both keep."""
