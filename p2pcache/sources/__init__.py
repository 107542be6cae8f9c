"""Origins: adapters that list what a ref means and say where its bytes can be read.

port.py          the port (`Source`), what a listing is, what credentials are
hf.py            Hugging Face Hubs: which endpoint, which token, pure locations
hf_listing.py    the question itself, run in a worker process with the huggingface_hub library
hf_guard.py      bounds for what a hub can do to us through that library
hf_errors.py     the table from a hub's refusals to our errors
http.py          web servers: one file, or a SHA256SUMS list
http_probe.py    the requests of that, with their deadlines and table of errors
sums.py          the strict parser of such lists
oci/             container registries, and Ollama's
s3/              buckets: the adapter, its signatures, and the questions with boto3
gcs/             Google's buckets, by their JSON API; tokens by google-auth
azure/           containers of Azure: its signatures; tokens by azure-identity
objects.py       what lists of objects have in common: names, versions, notes
rest.py          requests to a cloud's own API, bounded, and the table of refusals
rest_options.py  those bounds
grants.py        tokens and keys that are used for some minutes
tokens.py        tokens, and when they end
file.py          files and folders of this machine
kubo.py          a Kubo: what it has of a CID, proven by the DAG's own nodes
kubo_calls.py    the questions of that, over its RPC and as single blocks
kubo_place.py    where a Kubo is: a URL, a multiaddr, a repository's folder
headers.py       what response headers may mean: pure and bounded
urls.py          what a URL says of itself, and what of it may be shown
certificates.py  a certificate that does not verify, told from a server that is down

No adapter moves bytes: `lanes` fetches every `Location`, whoever made it. Only the agent's wiring
names the adapters; everybody else sees the port.
"""
