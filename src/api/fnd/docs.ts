/**
 * The OpenAPI document and a page to browse it. The page's assets are embedded in the executable,
 * so that it works without any other host.
 */
import { Elysia } from 'elysia'
import stylePath from 'swagger-ui-dist/swagger-ui.css' with { type: 'file' }
import scriptPath from 'swagger-ui-dist/swagger-ui-bundle.js' with { type: 'file' }

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fnd API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/fnd/docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="/fnd/docs/swagger-ui-bundle.js"></script>
<script src="/fnd/docs/start.js"></script>
</body>
</html>
`

const start = `SwaggerUIBundle({
  url: '/fnd/openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
})
`

/** swagger-ui styles elements inline and has images in data: URLs; all else is from this server. */
const pagePolicy =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
  "frame-ancestors 'none'"

function text(body: string | Blob, type: string): Response {
  const headers = {
    'content-type': `${type}; charset=utf-8`,
    'content-security-policy': pagePolicy,
    'x-content-type-options': 'nosniff',
  }
  return new Response(body, { headers })
}

const hidden = { detail: { hide: true } }

/** `document` is asked for when the first reader comes, after every route is known. */
export function docsApi(document: () => object) {
  return new Elysia()
    .get('/fnd/openapi.json', () => text(`${JSON.stringify(document())}\n`, 'application/json'), {
      detail: {
        tags: ['Node'],
        summary: 'This document',
        description: 'OpenAPI 3.1, made from the schemas that requests are checked with.',
        responses: { 200: { description: 'The document' } },
      },
    })
    .get('/fnd/docs', () => text(page, 'text/html'), {
      detail: {
        tags: ['Node'],
        summary: 'This page',
        description: 'Browse and try the API.',
        responses: { 200: { description: 'A page' } },
      },
    })
    .get('/fnd/docs/start.js', () => text(start, 'text/javascript'), hidden)
    .get(
      '/fnd/docs/swagger-ui-bundle.js',
      () => text(Bun.file(scriptPath), 'text/javascript'),
      hidden,
    )
    .get('/fnd/docs/swagger-ui.css', () => text(Bun.file(stylePath), 'text/css'), hidden)
}
