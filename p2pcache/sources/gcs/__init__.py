"""Google Cloud Storage as a source, by its JSON API.

options   how buckets are asked: plain values
source    the adapter: which endpoint, which login, addresses
listing   the question itself, run in a worker process: a page of a list tells all there is to know
login     tokens, by Google's own library (google-auth), in the same process
"""
