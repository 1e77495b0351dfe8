//! What Tasuki puts into a Kubernetes cluster: the names it goes by there, the sidecar it adds to a Pod, and the manifests
//! that install it. Pure: values in, values out. Who talks to the API server is the control plane, and `tasuki`.

pub mod access;
pub mod crd;
pub mod inject;
pub mod manifests;
pub mod names;
pub mod watched;
