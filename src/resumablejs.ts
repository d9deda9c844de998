export {
  type ResumableJsHandler,
  type ResumableJsOptions,
  resumableJsHandler,
} from './protocols/resumablejs/handler.ts'
