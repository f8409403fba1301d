"""Ranking folders of images: scan, score, select, report. Never changes what it reads."""
