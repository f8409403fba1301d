"""Procedural pictures that stand in for a folder of generations."""
