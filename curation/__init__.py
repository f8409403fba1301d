"""Curating folders of images: scan, score, decide, report; and act, undoably, where asked to."""
