# The same as Dockerfile on upstream's image of Python, where registries can be reached.
FROM docker.io/library/python:3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1
COPY packages/ /usr/local/lib/python3.11/site-packages/
COPY gpu_agents/ /usr/local/lib/python3.11/site-packages/gpu_agents/
COPY bin/ /usr/bin/
RUN ln -s /usr/local/bin/python3 /usr/bin/python3 && python3 -m compileall -q /usr/local/lib/python3.11/site-packages
ENV PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/usr/local/nvidia/bin GRPC_VERBOSITY=NONE
USER 65535:65535
ENTRYPOINT ["/usr/bin/gpu-exporter"]
