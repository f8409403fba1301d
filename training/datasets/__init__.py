"""Adapters: one file per data set, each turning its label file into records."""
