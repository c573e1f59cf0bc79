"""The main job: a list of inputs into files in a folder, resumable after any death.

This wing knows the journal, the bulk calls below it, and the files of a crawl. It does not know
clients, screens or how a request is sent.

Read `crawl` first, then `run` (the stages of one run) and `folder` (which files belong to a crawl,
and who may go on with it). `tables` and `arrow` make CSV and Parquet of the lines; `merge` puts
the shards of one job together.
"""
