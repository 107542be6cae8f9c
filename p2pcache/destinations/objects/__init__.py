"""Object stores as destinations: a folder of objects, each by its own path.

port     what a store must be able to do, and what it is asked about
s3       that, for S3 and what speaks like it
uploads  so many PUTs at once, counted
plan     what a folder lacks: pure
lease    one of many agents pushes, the others wait for it
push     the destination: plan, send, and the record (`content.push_record`) last
"""
