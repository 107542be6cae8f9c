"""S3 as a source.

options   how buckets are asked: plain values
source    the adapter: which endpoint, which login, signed addresses
sign      those, by AWS Signature Version 4: pure
listing   the question itself, run in a worker process with boto3
client    whose login, which region, and bounds for what a store can do to us through that library
errors    the table from a store's refusals to our errors
"""
