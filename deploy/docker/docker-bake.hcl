# The image for several platforms, with where it comes from and what is in it attached:
#
#   IMAGE=registry.example/trickle VERSION=0.1.0 docker buildx bake --file deploy/docker/docker-bake.hcl --push
variable "IMAGE" {
  default = "ghcr.io/trickle-verify/trickle"
}

variable "VERSION" {
  default = "0.1.0"
}

group "default" {
  targets = ["trickle"]
}

target "trickle" {
  context    = "."
  dockerfile = "deploy/docker/Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
  tags       = ["${IMAGE}:${VERSION}"]
  attest     = ["type=provenance,mode=max", "type=sbom"]
  labels = {
    "org.opencontainers.image.title"    = "trickle"
    "org.opencontainers.image.version"  = VERSION
    "org.opencontainers.image.source"   = "https://github.com/trickle-verify/trickle"
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
}
