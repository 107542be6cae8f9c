"""Object stores as destinations: a folder of objects, each by its own path.

port     what a store must be able to do, and what it is asked about
s3       that, for S3 and what speaks like it
record   our own objects beside the files: which content it is, who pushes now
plan     what a store lacks: pure
lease    one of many agents pushes, the others wait for it
push     the destination: plan, send, and the record last
"""
