/** Uppy with its own Dashboard, over tus. */
import type { Body, Meta } from '@uppy/core'
import Dashboard from '@uppy/dashboard'
import Tus from '@uppy/tus'
import type { Connect } from './client.ts'
import { uppyClient } from './uppy.ts'

export const connect: Connect = (begin, dashboard) => {
  /** Where the stored files are, by the URLs of their uploads. */
  const stored = new Map<string, string>()
  const client = uppyClient(begin, { id: 'tus', urlOf: (_file, uploadURL) => stored.get(pathOf(uploadURL)) ?? '' })
  client.uppy.use(Tus<Meta, Body>, {
    endpoint: '/tus',
    // The default gives up after nine seconds.
    retryDelays: [0, 1000, 1000, 2000, 3000, 5000, 10_000, 20_000],
    removeFingerprintOnSuccess: true,
    onAfterResponse(request, response) {
      const url = response.getHeader('Content-Location')
      if (url) stored.set(pathOf(request.getURL()), url)
    },
  })
  client.uppy.use(Dashboard<Meta, Body>, {
    target: dashboard,
    inline: true,
    width: '100%',
    height: 380,
    theme: 'auto',
    proudlyDisplayPoweredByUppy: false,
    showRemoveButtonAfterComplete: true,
    note: 'This is Uppy’s own Dashboard. Several files at once if you like.',
  })
  return client
}

function pathOf(url: string): string {
  return new URL(url, location.href).pathname
}
