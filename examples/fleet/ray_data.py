"""A file of URLs into Parquet files of posts, with Ray Data (extra `[ray]`).

    python ray_data.py urls.txt posts --redis redis://127.0.0.1:6379

Ray Data runs a dead actor's rows again in another actor. The journal in Redis is what keeps them
from being paid for twice, so that Redis needs `appendfsync always`; the throttle's needs nothing.
TOKFLUENCE_TOKEN comes from the environment of the actors.
"""

import argparse

import ray

from tokfluence_async.ray import ResolvePosts

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("urls")
parser.add_argument("out")
parser.add_argument("--redis", default="redis://127.0.0.1:6379")
parser.add_argument("--job", default="posts", help="the journal's name: another job, another name")
parser.add_argument("--actors", type=int, default=4)
options = parser.parse_args()

posts = ray.data.read_text(options.urls).map_batches(
    ResolvePosts,
    fn_constructor_kwargs={
        "throttle": f"{options.redis}/0",
        "journal": f"{options.redis}/1?job={options.job}",
    },
    batch_size=200,
    concurrency=options.actors,
)
posts.write_parquet(options.out)
