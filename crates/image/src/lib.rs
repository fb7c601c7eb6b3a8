//! Images: a content-addressed store in OCI layout, import, pull, bases
