//! Readiness on 15021, for the kubelet and for whoever starts the proxy.
