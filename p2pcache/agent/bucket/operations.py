"""The operations of the local API on buckets of hf-cache-sync."""

from p2pcache.agent.bucket.doctor import bucket_doctor
from p2pcache.agent.bucket.local import bucket_diff, bucket_list, bucket_prune, bucket_remote
from p2pcache.agent.bucket.pull import bucket_pull
from p2pcache.agent.bucket.push import bucket_push
from p2pcache.agent.bucket.watch import bucket_watch

BUCKET_OPERATIONS = {
    "bucket_diff": bucket_diff,
    "bucket_doctor": bucket_doctor,
    "bucket_list": bucket_list,
    "bucket_prune": bucket_prune,
    "bucket_pull": bucket_pull,
    "bucket_push": bucket_push,
    "bucket_remote": bucket_remote,
    "bucket_watch": bucket_watch,
}
