//! What is installed on a cluster: the image and the manifest, and that both are enough to serve.

mod api;
mod container;
mod image;
mod manifest;
