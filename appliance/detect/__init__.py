"""The detect stage of the line: Event -> Detections. Detectors stand side by side here."""
