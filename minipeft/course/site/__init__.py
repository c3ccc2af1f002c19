"""The course as a site: lectures, claims and sources as pages that load nothing from elsewhere."""
