//! Source to image: detection and bounded build steps
