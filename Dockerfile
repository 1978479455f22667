# Two images from one file: `data` (no torch) runs the data steps, `train` the steps that compute, on a GPU where there is one.
# Plain builder features only; a site with its own base gives --build-arg BASE_IMAGE=... (Debian's or Docker's Python 3.11).
# A pod that is told no revision names its image's in what it makes.
# Layers from what changes least to what changes most: libraries, then the package, then its revision. The libraries of
# `data` are layers of `train` too: a cluster's node that holds one image fetches only the rest of the other.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
COPY requirements/lock.txt requirements/data.txt scripts/image-venv.sh /src/
RUN sh /src/image-venv.sh data

FROM ${BASE_IMAGE} AS data-libraries
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/emoverse PYTHONUNBUFFERED=1 DVC_NO_ANALYTICS=1 HOME=/tmp
RUN printf '#!/bin/sh\nexec /opt/venv/bin/python -m emoverse.cli "$@"\n' > /usr/local/bin/emoverse \
 && chmod 755 /usr/local/bin/emoverse
WORKDIR /tmp

FROM data-libraries AS data
COPY emoverse /opt/emoverse/emoverse
RUN /opt/venv/bin/python -m compileall -q /opt/emoverse
# No entry of /etc/passwd names this user, nor the one a cluster may put in its place; SSH and torch ask for a name.
ENV LOGNAME=emoverse
USER 10001:10001
ARG REVISION=unknown
ENV EMOVERSE_REVISION=${REVISION}
LABEL org.opencontainers.image.title="emoverse-data" \
      org.opencontainers.image.source="EmoVerse Workflow" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

FROM data-libraries AS train-libraries
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY requirements/lock.txt requirements/train.txt scripts/image-venv.sh /src/
RUN sh /src/image-venv.sh train

FROM train-libraries AS train
COPY emoverse /opt/emoverse/emoverse
RUN /opt/venv/bin/python -m compileall -q /opt/emoverse
ENV LOGNAME=emoverse
USER 10001:10001
ARG REVISION=unknown
ENV EMOVERSE_REVISION=${REVISION}
LABEL org.opencontainers.image.title="emoverse-train" \
      org.opencontainers.image.source="EmoVerse Workflow" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
