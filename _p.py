import scripts.bench_origin as b, scripts.bench_small as bs, scripts.bench_local as bl
from scripts.bench_support import *
from tests.support.nginx import *
from tests.support.hub_repo import *
from tests.support.certs import *
with on_tmpfs(3*GIB) as folder:
    repo=build_repo(folder/'repo',{b.FILE: lfs(GIB,1)},repo_id=b.REPO); site=folder/'site'; tls=make_server_cert(folder/'tls'); hub=static_hub(repo,site)
    with nginx(site,folder/'p',extra=hub,workers=CORES) as p, nginx(site,folder/'s',extra=hub,workers=CORES,tls=tls) as s:
        for w in (b._setting('plain',p.url,folder,repo,tls), b._setting('tls',s.url,folder,repo,tls)):
            for r in range(2):
                for n,pe in b.PEERS.items():
                    t=b.Times(); x=pe(w,t,r==0); print(w.scheme,n,round(x,2),round(GIB/1e6/x),t.hf_call_s, flush=True)
with on_tmpfs(2*GIB) as folder:
    import time; t0=time.time()
    repo = build_repo(folder / "repo", many_small_files(bs.FILES), repo_id=bs.REPO); print('build',time.time()-t0)
    site, tls = folder / "site", make_server_cert(folder / "tls")
    hub = static_hub(repo, site)
    with nginx(site, folder / "nginx", tls=tls, extra=hub, workers=CORES) as server:
        print('hf small', bs._theirs(repo, folder/'hf', HF_ENDPOINT=server.url, SSL_CERT_FILE=str(tls.ca_file)))
