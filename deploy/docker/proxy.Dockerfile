# The image of tasuki-proxy: the sidecar, and the init container that redirects traffic into it. From the root of the
# repository:
#   docker build --file deploy/docker/proxy.Dockerfile --tag REGISTRY/tasuki-proxy:VERSION .

FROM rust:1.90-bookworm AS build
# aws-lc is C.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --locked --profile dist --package tasuki-proxy

FROM debian:bookworm-slim
# `redirect install` runs iptables; Debian's is iptables-nft.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends iptables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/target/dist/tasuki-proxy /usr/local/bin/
# The user that `redirect` exempts. The init container is root by its Pod's own word.
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/tasuki-proxy"]
