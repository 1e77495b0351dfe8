# The image of tasuki-control, with `tasuki` for whoever looks around in it. From the root of the repository:
#   docker build --file deploy/docker/control.Dockerfile --tag REGISTRY/tasuki-control:VERSION .

FROM rust:1.90-bookworm AS build
# aws-lc is C.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --locked --profile dist --package tasuki-control --package tasuki-cli

# libc, libgcc and root certificates; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /source/target/dist/tasuki-control /source/target/dist/tasuki /usr/local/bin/
# As the Deployment has it.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/tasuki-control"]
