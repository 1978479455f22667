# Two images from one file: `data` (no torch) runs the data steps, `train` the GPU steps.
# Plain builder features only; a site with its own base gives --build-arg BASE_IMAGE=...
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build-data
COPY requirements /src/requirements
RUN python3.11 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --quiet --no-cache-dir "$(grep -oE '^uv==[^ ]+' /src/requirements/lock.txt)" \
 && UV_LINK_MODE=copy UV_NO_CACHE=1 /opt/venv/bin/uv pip install --quiet --require-hashes --python /opt/venv/bin/python \
      --requirement /src/requirements/data.txt \
 && UV_NO_CACHE=1 /opt/venv/bin/uv pip uninstall --quiet --python /opt/venv/bin/python uv

# What both images share: the package itself (its files decide the code digests), a user without privileges, labels.
FROM ${BASE_IMAGE} AS data
ARG REVISION=unknown
LABEL org.opencontainers.image.title="emoverse-data" \
      org.opencontainers.image.source="EmoVerse Workflow" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-data /opt/venv /opt/venv
COPY emoverse /opt/emoverse/emoverse
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/emoverse PYTHONUNBUFFERED=1 DVC_NO_ANALYTICS=1 HOME=/tmp
RUN printf '#!/bin/sh\nexec /opt/venv/bin/python -m emoverse.cli "$@"\n' > /usr/local/bin/emoverse && chmod 755 /usr/local/bin/emoverse
USER 10001:10001
WORKDIR /tmp

FROM ${BASE_IMAGE} AS build-train
COPY requirements /src/requirements
RUN python3.11 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --quiet --no-cache-dir "$(grep -oE '^uv==[^ ]+' /src/requirements/lock.txt)" \
 && UV_LINK_MODE=copy UV_NO_CACHE=1 /opt/venv/bin/uv pip install --quiet --require-hashes --python /opt/venv/bin/python \
      --requirement /src/requirements/train.txt \
 && UV_NO_CACHE=1 /opt/venv/bin/uv pip uninstall --quiet --python /opt/venv/bin/python uv

FROM ${BASE_IMAGE} AS train
ARG REVISION=unknown
LABEL org.opencontainers.image.title="emoverse-train" \
      org.opencontainers.image.source="EmoVerse Workflow" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-train /opt/venv /opt/venv
COPY emoverse /opt/emoverse/emoverse
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/emoverse PYTHONUNBUFFERED=1 DVC_NO_ANALYTICS=1 HOME=/tmp
RUN printf '#!/bin/sh\nexec /opt/venv/bin/python -m emoverse.cli "$@"\n' > /usr/local/bin/emoverse && chmod 755 /usr/local/bin/emoverse
USER 10001:10001
WORKDIR /tmp
