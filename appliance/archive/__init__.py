"""The archive: every event's record, kept in compressed segments and then in Parquet, and hunting.

Beside the line: who reads the records writes them here before the batch is stored (`writer`),
sealed segments become Parquet (`convert`), old files go (`keep`), and `reader` finds things again.
"""
