"""The miniature world: a renderer, its captions, and the recipe that trains a complete text-to-image stack on them."""
