# A container that serves an index, or a model as an embeddings endpoint: docs/deploy.md.
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
# PyPI's torch for Linux brings 3 GB of CUDA. This index has the one for CPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python3 -m venv /opt/ibkd
COPY constraints.txt .
RUN /opt/ibkd/bin/pip install --no-cache-dir --constraint constraints.txt --extra-index-url "${TORCH_INDEX}" torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY cli cli
COPY ibkd_retrieval ibkd_retrieval
RUN /opt/ibkd/bin/pip install --no-cache-dir --constraint constraints.txt ".[cpu,serve,bm25]"

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --home-dir /cache ibkd && install --directory --owner=ibkd /cache /data
COPY --from=build /opt/ibkd /opt/ibkd
# Nothing is fetched. What is measured and converted goes to /cache, the only folder that is written.
ENV PATH=/opt/ibkd/bin:$PATH HOME=/cache XDG_CACHE_HOME=/cache HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["ibkd"]
CMD ["serve", "--host", "0.0.0.0"]
