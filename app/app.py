"""Serve the page in `page.py` to requests that use a known host name.

`streamlit run app/app.py` serves `savefolder/`; `streamlit run app/app.py -- FOLDER` serves another
folder of models. Other host names are refused. So a page of another site cannot reach the models
through a name of its own that points here (DNS rebinding).
"""

import streamlit as st
from server import known_names
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

app = st.App("page.py", middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=known_names())])
