"""From records and detections to tables, pictures and statements about differences."""
