"""From features to a trained head."""

from srr_guard.extras import require_local

require_local(__name__)
