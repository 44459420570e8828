"""Scoring in COCO's terms: truth and detections, matching, AP and AR of every cell, the metrics."""
