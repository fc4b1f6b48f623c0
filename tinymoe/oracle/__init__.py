"""The oracle: what a correct model computes, named tensor by tensor."""
